"""The researcher's pages: how the work goes, whose judgments count, and who may come in."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
