"""The stages of the processing, as builders of nipype graphs."""
