//! The one server builder: layers, interceptor, limits, health, reflection, errors
