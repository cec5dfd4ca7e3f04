"""All rows of the table, those first that are used most."""

from engines import architectures, generating, pooling
from engines.row import Row

ROWS: tuple[Row, ...] = (*generating.ROWS, *pooling.ROWS, *architectures.ROWS)
