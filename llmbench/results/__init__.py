"""What a run leaves behind: the record's schema, the store on disk, the fingerprint of the environment."""
