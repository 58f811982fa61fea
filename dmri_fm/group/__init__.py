"""Tables over all participants."""
