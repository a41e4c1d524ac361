"""Claims of work that followed the two papers, over the strengths of adversarial training."""
