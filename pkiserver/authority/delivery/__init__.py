"""CRLs brought to other places: directories, SFTP, HTTP PUT, LDAP; each target by itself, retried with back-off."""
