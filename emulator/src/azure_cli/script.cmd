@echo off
setlocal
set "line=%CD%"
set scope=
set tenant=
set answer=
for %%a in (%*) do call set "line=%%line%%@SEPARATOR@%%~a"
>>"@FOLDER@\invocations" echo %line%
for /f "usebackq" %%m in ("@FOLDER@\mode") do set mode=%%m
if "%mode%"=="LoggedOut" 1>&2 echo ERROR: @LOGIN@& exit /b 1
if "%mode%"=="Broken" 1>&2 echo ERROR: The command failed with an unexpected error.& exit /b 1
if "%mode%"=="Garbage" echo WARNING: You have 2 updates available.& exit /b 0
if "%mode%"=="Hanging" ping -n 3600 127.0.0.1 >nul
if not "%1 %2"=="@COMMAND@" 1>&2 echo ERROR: '%1 %2' is misspelled.& exit /b 2
shift & shift
:next
if "%~1"=="" goto read
if "%~1"=="--scope" set "scope=%~2"
if "%~1"=="--tenant" set "tenant=%~2"
if "%~1"=="--tenant-id" set "tenant=%~2"
if "%~1"=="--no-prompt" shift & goto next
shift & shift
goto next
:read
if not "%tenant%"=="" if not "%tenant%"=="@TENANT@" 1>&2 echo ERROR: AADSTS90002: Tenant '%tenant%' not found.& exit /b 1
@SCOPES@if "%answer%"=="" 1>&2 echo ERROR: AADSTS500011: The resource principal named %scope% was not found.& exit /b 1
type "@FOLDER@\%answer%"
