"""What params.yaml may say about the data report (assets/data_report.py)."""

from core.params import Config


class DataReportConfig(Config):
    """The title of the page."""

    title: str = "The data"
