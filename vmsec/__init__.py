"""Disks of switched-off virtual machines that start only in their own cloud.

While a VM is off, the structures without which its disk neither starts nor
mounts nor names a file are AES-encrypted in place; they are decrypted just
before the VM starts. Keys live in TPMs, one per VM UUID.

The layers, imports going down only (import-linter holds it)::

    cmd : cli
    api | agent | controller | kmc
    conf
    keysync
    sealing | tpm
    ondisk | crypto
    encoding, secret, units, errors
"""
