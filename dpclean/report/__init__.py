"""What is made for a reader: pages (html.py, templates/), curves (plot.py), contact sheets."""
