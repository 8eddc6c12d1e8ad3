"""The key-management centre: one key per VM UUID, sealed by its TPM."""
