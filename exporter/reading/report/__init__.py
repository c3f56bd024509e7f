"""One self-contained page of HTML about the history: `page` makes it, from what the others read."""
