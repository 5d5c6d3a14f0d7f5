"""The web application `samestyle serve`: the current release as a shop, and as a JSON API. Needs the extra `web`."""
