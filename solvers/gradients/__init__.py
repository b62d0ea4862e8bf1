"""Gradients of adaptive runs: of the steps that were taken, or of the flow by its adjoint equation."""
