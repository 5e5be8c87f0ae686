//! Who asks for the token.
