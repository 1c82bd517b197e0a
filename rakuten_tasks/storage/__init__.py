"""Files: the addresses that users name, this machine's files, and the folders below var/."""
