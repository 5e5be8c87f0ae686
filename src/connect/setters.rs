/// Generates the setters of a configuration, one per row: name, argument, the field, and its value.
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
