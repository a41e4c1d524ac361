"""Figures as values, and how they are drawn: styles, plotly for the page, matplotlib for papers."""
