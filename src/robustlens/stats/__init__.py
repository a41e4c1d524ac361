"""Statistics of all rooms: intervals, the bootstrap, ranks, chance, kinds of misclassification. No torch."""
