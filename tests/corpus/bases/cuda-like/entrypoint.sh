#!/bin/sh
echo banner
exec "$@"
