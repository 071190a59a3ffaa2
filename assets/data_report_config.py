"""What params.yaml may say of the page on the data (assets/data_report.py)."""

from core.params import Config


class DataReportConfig(Config):
    """What stands above the page."""

    title: str = "The data"
