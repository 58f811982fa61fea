"""Registration, grids and signal scales."""
