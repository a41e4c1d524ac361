"""Statistics of all rooms: intervals, the bootstrap, ranks, kinds of misclassification. No torch."""
