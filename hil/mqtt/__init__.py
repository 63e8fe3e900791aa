"""MQTT: a gateway between a broker and the devices, and a broker to begin with."""
