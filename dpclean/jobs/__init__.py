"""What every long command shares: ledger, staging, lock, key file, manifest. Knows nothing of images."""
