"""Jobs that a scheduler runs elsewhere: submitted, followed, fetched, cancelled."""
