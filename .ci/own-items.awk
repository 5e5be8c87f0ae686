# Sorts a listing of cargo-public-api: the crate's own items first, then the implementations of
# traits. A line belongs to an implementation if it follows one and names its type.
function path(line) {
    sub(/^.*pub (async |const |unsafe )*(fn|type|const|struct|enum|mod|trait|use) /, "", line)
    sub(/^.*pub /, "", line)
    return line
}
/^impl/ {
    type = ""
    if ($0 ~ / for /) {
        type = $0
        sub(/^.* for /, "", type)
        sub(/( where .*)?$/, "", type)
        sub(/<.*$/, "", type)
        implementations[++count] = $0
    }
    next
}
type != "" && (path($0) == type || path($0) ~ ("^" type "[:<]")) { implementations[++count] = $0; next }
{ type = ""; print }
END {
    print "\n# Implementations of traits\n"
    for (at = 1; at <= count; at++) print implementations[at]
}
