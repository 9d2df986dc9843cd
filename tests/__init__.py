"""A package, so that no other one of this name that a library installs is taken for it."""
