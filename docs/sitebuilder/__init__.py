"""What the site is built with beside Sphinx: code in pages, the API, pages made from elsewhere."""
