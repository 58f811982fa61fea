"""Records of the models, a module per family; `RECORDS` of each lists them."""
