"""Stage of the head motion correction (HMC), with eddy currents: one module per method."""
