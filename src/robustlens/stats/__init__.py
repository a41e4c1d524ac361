"""Statistics that every room shares: intervals, the bootstrap, ranks, kinds of misclassification. No torch."""
