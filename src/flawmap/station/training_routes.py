"""Data sets and trainings over the web."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
