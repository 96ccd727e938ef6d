"""The pure core of proof: digests, records, signatures, verification. Bytes in, findings out; no paths, no processes."""
