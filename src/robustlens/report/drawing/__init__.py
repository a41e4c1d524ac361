"""Figures before and on the canvas: what is drawn, in which colours, by plotly and by matplotlib."""
