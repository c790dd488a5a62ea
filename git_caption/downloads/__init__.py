"""Images of a list of addresses: fetched once, checked, with a status row for every address."""
