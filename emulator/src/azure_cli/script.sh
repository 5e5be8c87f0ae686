#!/bin/sh
# A stand-in for the Azure CLI or the Azure Developer CLI. It needs no programs, only `sleep` when it hangs.
folder='@FOLDER@'
line=$PWD
for argument in "$@"; do line=$line@SEPARATOR@$argument; done
printf '%s\n' "$line" >> "$folder/invocations"

command='@COMMAND@'
fail() { printf '@ERROR@\n' "$2" >&2; exit "$1"; }

read -r mode < "$folder/mode"
case $mode in
  LoggedOut) fail 1 '@LOGIN@' ;;
  Broken) fail 1 "The command failed with an unexpected error." ;;
  Garbage) printf '%s\n' "WARNING: You have 2 updates available."; exit 0 ;;
  Hanging) PATH=$PATH:/bin:/usr/bin; exec sleep 3600 ;;
esac

[ "$1 $2" = "$command" ] || fail 2 "'$1 $2' is misspelled or not recognized by the system."
shift 2
scope= tenant= output=
while [ $# -gt 0 ]; do
  case $1 in
    --no-prompt) [ "$command" = 'auth token' ] || fail 2 "unrecognized arguments: $1"; shift; continue ;;
    --scope) scope=$2 ;;
    @TENANT_OPTION@) tenant=$2 ;;
    --output) output=$2 ;;
    --subscription) [ "$command" != 'auth token' ] || fail 2 "unknown flag: $1" ;;
    *) fail 2 "unrecognized arguments: $1" ;;
  esac
  [ $# -ge 2 ] || fail 2 "argument $1: expected one argument"
  shift 2
done
[ "$output" = json ] || fail 2 "argument --output: this stand-in supports only json"
[ -z "$tenant" ] || [ "$tenant" = '@TENANT@' ] || fail 1 "AADSTS90002: Tenant '$tenant' not found."
case $scope in
@SCOPES@  *) fail 1 "AADSTS500011: The resource principal named $scope was not found in the tenant." ;;
esac
while IFS= read -r line; do printf '%s\n' "$line"; done < "$folder/$answer"
