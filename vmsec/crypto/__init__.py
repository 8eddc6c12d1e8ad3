"""Key derivation and authenticated encryption; pure functions over bytes."""
