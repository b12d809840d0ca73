def quick():
    return {}
