"""What tutorials need of a site: listed, fetched from hubs and servers, verified."""
