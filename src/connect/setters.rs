/// Writes the setters of a configuration, a row for each: its name, its argument, and the field
/// that gets the value.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty) => $field:ident = $set:expr;)*) => {
        $($(#[$doc])*
        pub fn $name(mut self, $value: $type) -> Self {
            self.$field = $set;
            self
        })*
    };
}

pub(crate) use setters;
