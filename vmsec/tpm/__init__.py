"""TPM 2.0: keys that only TPMs hold; the only importer of tpm2-pytss.

Example::

    with SoftwareTPM(Path("/var/lib/vmsec/tpm"), "node") as software:
        tpm = open_tpm(software.tcti)
        custody = NodeCustody(tpm, Path("/var/lib/vmsec/node"))
        key = custody.import_key(migrated)
        with custody.unseal(key, context) as disk_key:
            ...
"""

from vmsec.tpm.blob import MigratedKey, NodeKey, SealedKey
from vmsec.tpm.context import TPM, open_tpm
from vmsec.tpm.custody import KMCCustody, NodeCustody
from vmsec.tpm.objects import SRKAlgorithm
from vmsec.tpm.swtpm import SoftwareTPM

__all__ = [
    "TPM",
    "KMCCustody",
    "MigratedKey",
    "NodeCustody",
    "NodeKey",
    "SRKAlgorithm",
    "SealedKey",
    "SoftwareTPM",
    "open_tpm",
]
