"""The HTML page: template, style, script, and what fills them."""
