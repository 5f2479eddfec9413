#!/bin/sh
# What git does not keep; run in a copy of this folder.
set -e
mkdir -p names/empty 'names/d r/in' 'names/new word' && cd names
printf 'n' > 'two
lines'; for n in '{{ x }}' '%post' 'back\slash' '"quoted"' "it's" '中文' 'a;b&c|d' '$HOME' '*' '[ab]' ' lead' '-n' '~' 'bootstrap: docker'; do echo "$n" > "$n"; done
ln -s nowhere dangling; ln -s loop loop; ln -s . self; ln -s 'd r' link; echo h > h1; ln h1 h2; mkdir -m 700 private; echo p > private/p; chmod 600 private/p; truncate -s 3M sparse; : > zero; chmod 444 zero
