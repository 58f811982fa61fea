"""Group statistics: tests of features, regional scalars and maps, with their page."""
