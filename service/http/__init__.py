"""The HTTP gateway: routes, wire types, admission."""
