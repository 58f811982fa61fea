"""U-Net that was pretrained to remove artefacts."""
