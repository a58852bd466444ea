// What nginx serves: the same as `wsgi_echo.py`.

function body(request) {
    request.return(200, request.method === 'POST' ? request.requestText || '' : 'OK');
}

function fields(request) {
    request.return(200, request.rawHeadersIn.map((field) => `${field[0]}: ${field[1]}\n`).join(''));
}

function cookies(request) {
    const pairs = (request.headersIn.Cookie || '').split(';').map((pair) => pair.trim());
    request.return(200, pairs.filter((pair) => pair.indexOf('=') > 0).join('\n'));
}

export default { body, fields, cookies };
