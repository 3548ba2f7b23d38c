"""What Arrow's types are made of. Light: nothing is compiled here."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import pyarrow as pa

DAY_MICROSECONDS: Final = 86_400_000_000

Decimal: TypeAlias = "pa.Decimal128Type[Any, Any] | pa.Decimal256Type[Any, Any]"
DECIMALS: Final = (pa.Decimal128Type, pa.Decimal256Type)


def storage_type(arrow_type: pa.DataType) -> pa.DataType:
    """What an extension type is made of; any other type itself."""
    return arrow_type.storage_type if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type
