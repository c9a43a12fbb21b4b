"""A day is made beside its table and attached, which keeps neither readers nor writers of the table waiting."""

from django.db import migrations

from monitor import rowsecurity


class Migration(migrations.Migration):
    dependencies = [("monitor", "0026_nearby_spans")]

    operations = [rowsecurity.partition_functions()]
