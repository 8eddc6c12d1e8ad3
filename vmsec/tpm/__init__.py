"""TPM 2.0: the only importer of tpm2-pytss."""
