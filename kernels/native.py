"""The native backend: the compiled module, called with raw addresses."""
