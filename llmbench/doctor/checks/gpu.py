"""The health of each GPU, as the driver's management library (NVML) and the kernel log tell it."""
